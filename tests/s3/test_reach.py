"""How S3 is reached: every kind of key, and one sentence for whatever is wrong."""

import datetime as dt
import http.server
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

import alpage
from alpage import objectstore
from alpage.cube.place import storage_of
from alpage.cube.probe import probe
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.storage import ReadCounters, fetch_head
from alpage.errors import AlpageError, StorageError
from alpage.objectstore import StorageSettings, forget_environment, reason
from alpage.study import Study

StudyOf = Callable[..., Study]
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def use_all(bucket: Any) -> None:
    """Write and read by obstore and by Icechunk."""
    probe(f"{bucket.url}/cube")
    bucket.files.pipe_file(f"{bucket.name}/a.bin", b"abc")
    assert bytes(fetch_head(f"{bucket.url}/a.bin", 10, ReadCounters())[0]) == b"abc"
    store = CubeStore.create(f"{bucket.url}/cube")
    assert CubeStore.open(f"{bucket.url}/cube").tip() == store.tip()
    assert store.repository.writable_session(MAIN).commit("none", allow_empty=True)


def test_keys_of_the_environment(s3: Any) -> None:
    use_all(s3)


def test_keys_of_a_profile(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, secret = (s3.environment[name] for name in KEYS)
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = no\naws_secret_access_key = no\n"
        f"[lakes]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
    )
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lakes")
    use_all(s3)
    monkeypatch.setenv("AWS_PROFILE", "moss")
    forget_environment()
    with pytest.raises(StorageError, match=r"keys cannot be had: .*profile \(moss\)"):
        CubeStore.open(f"{s3.url}/cube")


class TokenService(http.server.ThreadingHTTPServer):
    """Gives keys for a web identity, as AWS STS does, and counts how often."""

    def __init__(self, key: str, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.key, self.secret = key, secret
        self.asked: list[dict[str, list[str]]] = []


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    server: TokenService

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(parse_qs(body))
        # So near its end that it has to be renewed at each use.
        until = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
        answer = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{self.server.key}</AccessKeyId>"
            f"<SecretAccessKey>{self.server.secret}</SecretAccessKey>"
            # The server that tests use knows no session tokens, and refuses any.
            f"<SessionToken></SessionToken><Expiration>{until:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
            "</Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def token_service(s3: Any) -> Iterator[TokenService]:
    with TokenService(*(s3.environment[name] for name in KEYS)) as service:
        service.daemon_threads = True
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def test_keys_of_a_web_identity_are_renewed(
    s3: Any, token_service: TokenService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("who-I-am")
    for name in KEYS:
        monkeypatch.delenv(name)
    # Only S3's own: an endpoint for all services would be asked for keys as well.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.environment["AWS_ENDPOINT_URL"])
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{token_service.server_port}")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/alpage")
    monkeypatch.setattr(objectstore, "ASK_AGAIN_AFTER", dt.timedelta(seconds=1))
    use_all(s3)
    (identity,) = token_service.asked[0]["WebIdentityToken"]
    assert identity == "who-I-am"
    before = len(token_service.asked)
    assert before > 1
    token_service.secret = "no-longer-valid"
    with pytest.raises(StorageError, match="the secret does not fit the key"):
        CubeStore.open(f"{s3.url}/cube")
    assert len(token_service.asked) > before


def test_public_buckets_need_no_keys(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_all(s3)
    s3.open_to_all()
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    forget_environment()
    assert CubeStore.open(f"{s3.url}/cube").tip()
    assert bytes(fetch_head(f"{s3.url}/a.bin", 10, ReadCounters())[0]) == b"abc"


def test_no_keys_at_all(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"there are no keys: set AWS_ACCESS_KEY_ID and .*PROF"):
        CubeStore.open(f"{s3.url}/cube")


VERBS = ("run", "open", "release", "search")
WRONG = (
    ("unknown-key", {KEYS[0]: "stranger"}, "does not know the key", VERBS),
    ("wrong-secret", {KEYS[1]: "guessed"}, "secret does not fit the key", VERBS),
    ("no-bucket", {"bucket": "nowhere"}, "there is no such bucket: make it", VERBS),
    (
        "wrong-endpoint",
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        r"nothing answers at http://127\.0\.0\.1:9: check AWS_ENDPOINT_URL",
        # Tried several times, so each takes seconds.
        ("run",),
    ),
)


@pytest.mark.parametrize(
    ("verb", "changed", "told"),
    [
        pytest.param(verb, changed, told, id=f"{name}-{verb}")
        for name, changed, told, verbs in WRONG
        for verb in verbs
    ],
)
def test_what_is_wrong_is_one_sentence(
    verb: str,
    changed: dict[str, str],
    told: str,
    s3: Any,
    study_of: StudyOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = f"s3://{changed.get('bucket', s3.name)}"
    for name in changed.keys() - {"bucket"}:
        monkeypatch.setenv(name, changed[name])
    cube = f"{bucket}/cubes/mine"
    far = f"{bucket}/archive/collection.json"
    do = {
        "run": lambda: alpage.run(study_of("monthly_ndvi", cube)),
        "open": lambda: alpage.open_cube(cube),
        "release": lambda: alpage.release(study_of("monthly_ndvi", cube)),
        "search": lambda: alpage.search(study_of("monthly_ndvi", "cube", archive=far)),
    }[verb]
    with pytest.raises(AlpageError, match=told) as refusal:
        do()
    assert "\n" not in str(refusal.value)
    whole = "".join(traceback.format_exception(refusal.value))
    for name in KEYS:
        assert s3.environment[name] not in whole
        assert changed.get(name, "none of them") not in str(refusal.value)


def test_a_release_that_cannot_be_put_is_told(s3: Any, study_of: StudyOf, tmp_path: Path) -> None:
    study = study_of("monthly_ndvi", str(tmp_path / "cube"), release="s3://nowhere/lakes")
    alpage.run(study)
    with pytest.raises(StorageError, match="s3://nowhere: there is no such bucket"):
        alpage.release(study)


def test_a_place_that_holds_something_else(s3: Any) -> None:
    s3.files.pipe_file(f"{s3.name}/cube/a.bin", b"abc")
    with pytest.raises(
        StorageError, match=r"expected nothing at s3://.*/cube yet, it holds other objects"
    ):
        CubeStore.create(f"{s3.url}/cube")
    with pytest.raises(StorageError, match="expected a place within the bucket"):
        CubeStore.create(s3.url)


def test_settings_speak_alike_to_icechunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example.org/")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    told = StorageSettings()
    assert not told.path_style
    assert told.s3_store("lakes").config["endpoint"] == "https://lakes.store.example.org"
    assert told.gdal_options()["AWS_VIRTUAL_HOSTING"] == "TRUE"
    said = repr(storage_of("s3://lakes/cube"))
    assert "force_path_style" not in said
    assert "requester_pays: True" in said
    assert "region: eu-west-3" in said
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")
    assert not StorageSettings().path_style


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("<Error><Code>RequestTimeTooSkewed</Code></Error>", "clock"),
        ('unhandled error (ExpiredToken): Error { code: "ExpiredToken" }', "expired"),
        ("Server returned status code: 418: teapot", "status 418"),
    ],
)
def test_what_stores_say_is_put_in_words(said: str, told: str) -> None:
    assert told in reason(OSError(said))
