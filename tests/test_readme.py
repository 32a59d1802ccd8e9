"""The README shows what runs."""

import re
from pathlib import Path

import pytest
import yaml

from alpage.settings import Settings
from alpage.study import make_study

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_product_is_the_file_that_the_tests_run() -> None:
    (name,) = re.findall(r"<!-- example: (\S+) -->", README)
    (block,) = re.findall(
        rf"<!-- example: {re.escape(name)} -->\n```python\n(.*?)```", README, re.S
    )
    assert block == (ROOT / name).read_text()


def test_the_example_study_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n# study.yaml\n(.*?)```", README, re.S)
    assert make_study(yaml.safe_load(block)).product == "vegetation"


@pytest.mark.parametrize("target", re.findall(r"^\$ make (\S+)", README, re.M))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_ci_runs_the_lines_of_the_readme() -> None:
    lines = [
        line.strip()
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line.startswith("make ")
    ]
    assert lines
    for line in lines:
        assert f"$ {line}" in README


def test_the_operator_is_told_every_setting_and_what_it_is_where_unset() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.split("\n## Settings\n")[1].split("\n## ")[0]
    told = {
        name: unset
        for names, unset in re.findall(r"^\| (`.*?`) \| (.*?) \|", table, re.M)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert told.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float):
            assert float(told[name]) == field.default, name
