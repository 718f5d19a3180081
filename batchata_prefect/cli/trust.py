"""What a results directory notes is data: whether this user's own command wrote it.

A note names files that are read and classes that are imported. One that came with somebody else's
directory or bucket would do that in our name, so each note is sealed with a key that lies in the
user's Prefect home, and one without the seal is shown and has to be confirmed.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from batchata_prefect.errors import StateError
from batchata_prefect.files import whole_file

_KEY_BYTES = 32


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A note with its seal; without one where no key can be kept."""
    seal = _seal(values)
    return dict(values) if seal is None else {**values, "seal": seal}


def is_ours(values: Mapping[str, Any]) -> bool:
    """Whether this user's own command wrote a note, and nobody has changed it."""
    seal = values.get("seal")
    own = _seal({name: value for name, value in values.items() if name != "seal"})
    return own is not None and isinstance(seal, str) and hmac.compare_digest(own, seal)


def refuse(place: object, told: Mapping[str, Any]) -> StateError:
    """That a note is to be confirmed: what it says, and how."""
    lines = "".join(f"\n  {name}: {value}" for name, value in told.items() if value)
    return StateError(
        f"what {str(place)!r} notes was not written by your own `batchata run` on this machine, or "
        f"was changed since. It would read files and import classes that it names:{lines}\n"
        "Nothing was read or sent. If that is what you want, give --trust"
    )


def _seal(values: Mapping[str, Any]) -> str | None:
    key = _key()
    if key is None:
        return None
    text = orjson.dumps(values, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str)
    return hmac.new(key, text, sha256).hexdigest()


def _key() -> bytes | None:
    """The user's own key, made at its first use; None where it can neither be read nor written."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = home / "batchata.key"
    try:
        if not path.exists():
            # Another command may make it at this moment.
            with suppress(FileExistsError), whole_file(path, first=True) as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) == _KEY_BYTES else None
