"""A lab's signature under an exported model: made, checked before anything else, and refused when it does not fit."""

import base64
import json
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pipeline.cli.main import main as run
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.signing import SignatureError, key_fingerprint, main, new_key, trusted_fingerprints

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> Path:
    """A folder with the keys `ours` and `theirs`, and a model that ours has signed."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("ours", "theirs"):
        new_key(folder / name)
    small_model(folder / "bundle", signing_key=folder / "ours")
    return folder


@pytest.fixture
def model(lab: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lab / "bundle", tmp_path / "bundle"))


def test_a_key_is_its_owner_s_and_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "key")]) == 0
    fingerprint = key_fingerprint(tmp_path / "key")
    assert fingerprint in capsys.readouterr().out
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert main(["show", str(tmp_path / "key.pub")]) == 0
    assert capsys.readouterr().out == f"{fingerprint}\n"
    assert main(["new", str(tmp_path / "key")]) == 2
    assert "File exists; no key is overwritten" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert main(["new", str(tmp_path / "link")]) == 2
    assert key_fingerprint(tmp_path / "key") == fingerprint
    assert not (tmp_path / "elsewhere").exists()


def test_the_signature_is_ed25519_of_the_checksums(lab: Path, tmp_path: Path) -> None:
    """By OpenSSL, if it is there, and by hand."""
    proof, raw = map(base64.b64decode, (lab / "bundle" / "checksums.json.sig").read_text("ascii").splitlines())
    content = (lab / "bundle" / "checksums.json").read_bytes()
    ed25519.Ed25519PublicKey.from_public_bytes(raw).verify(proof, content)
    assert "checksums.json.sig" not in json.loads(content)
    if shutil.which("openssl"):
        (tmp_path / "proof").write_bytes(proof)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", lab / "ours.pub", "-rawin", "-in"]
        command += [lab / "bundle" / "checksums.json", "-sigfile", tmp_path / "proof"]
        assert "Success" in subprocess.run(command, capture_output=True, text=True).stdout


def test_who_signed_is_known_and_who_is_trusted_decides(lab: Path, model: Path, tmp_path: Path) -> None:
    assert Bundle.read(model).signed_by == key_fingerprint(lab / "ours")
    assert Bundle.read(model, [lab / "ours.pub"]).name == "small"
    assert Bundle.read(model, [lab / "theirs.pub", lab / "ours.pub"]).name == "small"
    keys = tmp_path / "keys"
    keys.mkdir()
    shutil.copy(lab / "theirs.pub", keys)
    with pytest.raises(SignatureError, match=r"signed by the key [0-9a-f]{64}, which is none of those given with"):
        Bundle.read(model, [keys])
    shutil.copy(lab / "ours.pub", keys)
    assert Bundle.read(model, [keys]).name == "small"


def test_what_was_changed_after_signing_is_refused(lab: Path, model: Path, sums_anew: Callable[[Path], None]) -> None:
    (model / "docs" / "README.md").write_text("# Another card\n")
    sums_anew(model)
    for trusted in ([], [lab / "ours.pub"]):
        with pytest.raises(SignatureError, match="does not fit: files were changed after signing"):
            Bundle.read(model, trusted)
    (model / "checksums.json.sig").unlink()
    assert Bundle.read(model).signed_by == ""
    with pytest.raises(SignatureError, match=r"is not signed; --trusted needs a signature"):
        Bundle.read(model, [lab / "ours.pub"])


def test_the_signature_is_checked_before_anything_is_read(lab: Path, model: Path) -> None:
    (model / "checksums.json").write_text("[" * 100_000)
    with pytest.raises(SignatureError, match="does not fit"):
        Bundle.read(model, [lab / "ours.pub"])


@pytest.mark.parametrize("content", [b"", b"\n", b"AAAA\n", b"AAAA\nAAAA\n", b"\xff\xfe\n\xff\n", b"A" * 9999])
def test_what_is_no_signature_is_told(lab: Path, model: Path, content: bytes) -> None:
    (model / "checksums.json.sig").write_bytes(content)
    with pytest.raises(SignatureError, match=r"checksums\.json\.sig: the signature does not fit"):
        Bundle.read(model, [lab / "ours.pub"])


def test_keys_that_cannot_be_used_are_told(lab: Path, tmp_path: Path, small_model: Callable[..., Path]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no key")
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "other").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for path, message in {
        lab / "ours": "is the secret half of a key; hand out ours.pub",
        tmp_path / "empty": "holds no public key",
        tmp_path / "text": "holds no key for checking signatures",
        tmp_path / "other": "holds no key for checking signatures",
        tmp_path / "gone": "cannot be read: No such file",
    }.items():
        with pytest.raises(SignatureError, match=message):
            trusted_fingerprints([path])
    secret = ed25519.Ed25519PrivateKey.generate()
    locked = secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    elliptic = ec.generate_private_key(ec.SECP256R1())
    kinds = {
        "locked": (locked, 0o600, "has a passphrase; one without is needed"),
        "open": ((lab / "ours").read_bytes(), 0o644, r"others may read the key .* \(mode 0644\); run chmod 600"),
        "curve": (
            elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            0o600,
            "holds no key for signing",
        ),
        "words": (b"no key", 0o600, "holds no key for signing"),
    }
    for name, (content, mode, message) in kinds.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(mode)
        with pytest.raises(SignatureError, match=message):
            small_model(tmp_path / "bundle", signing_key=tmp_path / name)
    assert not (tmp_path / "bundle").exists()


def test_the_command_line_refuses_what_is_not_trusted(
    lab: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = tmp_path / "new_patients.csv"
    csv.write_text("subject,modality,path\n")
    argv = ["--cohort", str(csv), "--workspace", str(tmp_path / "run"), "--dry-run"]
    assert run(["--model", str(model), *argv, "--trusted", str(lab / "theirs.pub")]) == 2
    assert "which is none of those given with --trusted" in capsys.readouterr().err
    assert run([*argv, "--trusted", str(lab / "ours.pub")]) == 2
    assert "--trusted is about an exported model: name it with --model DIR" in capsys.readouterr().err
    (model / "checksums.json.sig").unlink()
    assert run(["--model", str(model), *argv, "--trusted", str(lab / "ours.pub")]) == 2
    assert "is not signed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
