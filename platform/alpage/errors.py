"""Every failure that alpage names. Catch `AlpageError` for all of them.

A message says what was expected, what came and what to do. The command line
exits with `exit_code`: 2 for a request that cannot be right, 1 for the rest.
"""

from alpage.redaction import redact


class AlpageError(Exception):
    """Base of all failures of alpage. Their texts hold no credentials, whatever they are told."""

    exit_code = 1

    def __init__(self, *told: object) -> None:
        super().__init__(*(redact(one) if isinstance(one, str) else one for one in told))


class StudyError(AlpageError, ValueError):
    """The study cannot be run as written: names the key, what was expected and what came."""

    exit_code = 2


class ProductError(AlpageError):
    """A product breaks the contract of its own layers and stages."""


class ArchiveError(AlpageError):
    """The archive cannot be searched or answers with something that is not STAC."""


class UntrustedHref(ArchiveError):
    """An asset points outside the schemes, buckets and hosts that are allowed."""


class SceneError(AlpageError):
    """One scene cannot be used. The run quarantines it by name.

    `where`, if known, is the band and the window of its file (row, column, height, width) that
    could not be read: a later run looks there before it believes the scene again.
    """

    def __init__(
        self,
        scene_id: str,
        reason: str,
        where: tuple[str, tuple[int, int, int, int]] | None = None,
    ) -> None:
        super().__init__(scene_id, reason, where)
        self.scene_id = scene_id
        self.reason = reason
        self.where = where

    def __str__(self) -> str:
        return f"scene {self.scene_id}: {self.reason}"


class StorageError(AlpageError):
    """An object store refused, lacks a needed promise, or kept failing after retries."""


class CubeError(AlpageError):
    """The cube cannot take this study: another grid, product or version, or it is read-only."""


class CubeBusy(CubeError):
    """Another run holds this cube."""


class LimitReached(AlpageError):
    """A limit of the study was met: what is finished is committed, the rest is counted."""


class BlockFailed(AlpageError):
    """Blocks kept failing after their retries; the run names them and keeps what is done."""


class GateFailed(AlpageError):
    """A quality check refused the cube: names the check, the block and the values."""


class RemoteRefused(AlpageError):
    """A Prefect server cannot take the request: no server, deployment, run or worker of that name.

    Nothing of it is left on the server.
    """

    exit_code = 2


class RemoteFailed(AlpageError):
    """A run on a Prefect server failed, crashed or was cancelled, or the server was lost."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ClusterError(AlpageError):
    """The cluster could not be started, or was lost and could not be replaced."""
