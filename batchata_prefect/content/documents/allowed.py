"""Which documents the rows of a table may name.

Rows are data. One that names `/etc/passwd`, a link to it, or a server behind the firewall would
have this process read that and send it to a provider.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from batchata_prefect.content.documents.formats import MAX_FILE_BYTES, RefusedError

_MOST_REDIRECTS = 5
_CONNECT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """What rows may name.

    Attributes:
        root: Folder, or URL of one, in which paths have to lie, links followed.
        urls: Patterns of hosts, such as `docs.example.com` or `*.example.com`, and with their
            scheme of what is not HTTP, such as `s3://bucket`. An address of a private network is
            taken only from a host that is named without a star.
    """

    root: str
    urls: tuple[str, ...] = ()

    def path(self, named: str) -> Path:
        """The file of a path, links followed."""
        found = Path(named).resolve()
        if "://" in self.root or not found.is_relative_to(Path(self.root).resolve()):
            raise RefusedError(
                f"lies outside of {self.root!r}, and rows are data; give the folder that holds the "
                "documents as documents_root (--documents-root)"
            )
        return found

    def is_open(self, url: str) -> bool:
        """Whether a URL's server is named without a star, so that it may be a private one."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        segments = unquote(unquote(parts.path)).replace("\\", "/").split("/")
        # One URL inside another, as fsspec chains them, would hide what is read.
        plain = "::" not in url and bool(host) and ".." not in segments
        if plain and "://" in self.root and f"{url}/".startswith(self.root.rstrip("/") + "/"):
            return True
        name = host if parts.scheme in ("http", "https") else f"{parts.scheme}://{host}"
        matching = [p for p in self.urls if plain and fnmatchcase(name, _host_pattern(p))]
        if not matching:
            raise RefusedError(
                "is a URL, and rows are data; allow its host with "
                f"allow_urls=[{name!r}] (--allow-url {name})"
            )
        return any("*" not in pattern for pattern in matching)

    def fetch(self, url: str) -> bytes:
        """The bytes at an HTTP URL; where it leads is asked for leave as well."""
        import httpx2

        for _ in range(_MOST_REDIRECTS + 1):
            address = _address(url, private=self.is_open(url))
            target = httpx2.URL(url)
            # The very address that was looked at, not what its name stands for a moment later.
            with (
                httpx2.Client(timeout=_CONNECT_SECONDS, trust_env=False) as client,
                client.stream(
                    "GET",
                    target.copy_with(host=address),
                    headers={"Host": target.netloc.decode()},
                    extensions={"sni_hostname": target.host},
                ) as reply,
            ):
                if reply.has_redirect_location:
                    url = str(target.join(reply.headers["location"]))
                    continue
                reply.raise_for_status()
                data = bytearray()
                for piece in reply.iter_bytes():
                    data += piece
                    if len(data) > MAX_FILE_BYTES:
                        raise RefusedError(f"has more than {MAX_FILE_BYTES:,} bytes")
                return bytes(data)
        raise RefusedError(f"leads on to another place more than {_MOST_REDIRECTS} times")


class RowFile(str):
    """A path or URL that a row has named, with what rows may name.

    Attributes:
        allowed: What rows may name.
    """

    __slots__ = ("allowed",)

    allowed: Allowed

    def __new__(cls, named: str, allowed: Allowed) -> RowFile:
        """The same text, bound to what is allowed."""
        made = super().__new__(cls, named)
        made.allowed = allowed
        return made


def row_file(file: Any, allowed: Allowed) -> Any:
    """A row's file, or list of files, bound to what rows may name; bytes are what they are."""
    if isinstance(file, (str, os.PathLike)):
        return RowFile(os.fspath(cast("str | os.PathLike[str]", file)), allowed)
    if isinstance(file, Sequence) and not isinstance(file, (bytes, bytearray, memoryview)):
        return [row_file(item, allowed) for item in cast("Sequence[Any]", file)]
    return cast("Any", file)


def _host_pattern(pattern: str) -> str:
    for scheme in ("http://", "https://"):
        pattern = pattern.lower().removeprefix(scheme)
    return pattern.rstrip("/")


def _address(url: str, *, private: bool) -> str:
    """The address that a URL's host stands for."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(each[4][0]).partition("%")[0] for each in found]
    if not private and not all(_is_public(address) for address in addresses):
        raise RefusedError(
            f"stands for an address of a private network; allow {parts.hostname!r} by its full "
            "name in allow_urls where that is meant"
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address)
    inner = getattr(found, "ipv4_mapped", None)
    return (inner or found).is_global and not (inner or found).is_multicast
