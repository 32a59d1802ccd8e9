"""YAML as people write it: a key that is given twice is a mistake, not the last of two."""

from pathlib import Path
from typing import Any

import yaml

from alpage.errors import StudyError


def read_yaml(path: Path) -> Any:
    """Return what a study's file says, None where it says nothing.

    Raises StudyError where it cannot be read, is no YAML, or gives a key twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text())
        root = loader.get_single_node()
        _refuse_repeated_keys(root, path)
        return None if root is None else loader.construct_document(root)
    except FileNotFoundError:
        raise StudyError(f"study: there is no file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(
            f"study: {path} is not readable YAML: {' '.join(str(error).split())}"
        ) from error


def _refuse_repeated_keys(root: yaml.Node | None, path: Path) -> None:
    """Raises StudyError where a mapping has a key twice: YAML would take the last."""
    # An anchor's node is met again at each of its aliases, which may stand within it.
    waiting, met = [("", root)], set()
    while waiting:
        name, node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in met:
            continue
        met.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(f"{name}{number}.", one) for number, one in enumerate(node.value)]
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise StudyError(
                    f"{name}{key.value}: expected once, {path} has it in line {lines[key.value]} "
                    f"and again in line {line}; keep one"
                )
            lines[key.value] = line
            waiting.append((f"{name}{key.value}.", value))
