"""Google's SDK client, called as `wire` calls those of the other SDKs.

The key, the base URL, the headers and the errors are the SDK's; what goes over its HTTP client is
ours, because its methods read replies into models that leave out what they do not know, and send a
body without asking anybody right before its last bytes.

Sources: google/genai/_api_client.py, files.py and errors.py (3.6.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from io import RawIOBase
from os import SEEK_END
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

import orjson

from batchata_prefect.errors import MissingCredentialsError
from batchata_prefect.providers import Key, wire
from batchata_prefect.providers.caps import http_client
from batchata_prefect.providers.failures import classify

_PIECE_BYTES = 256 * 1024
_BREATH_SECONDS = 0.5


class Client:
    """A ready client of the Gemini API.

    Attributes:
        base_url: Where requests go, without the version of the API, which is the SDK's own.
        api_key: The key.
    """

    def __init__(self, key: Key | None) -> None:
        """Connect.

        Args:
            key: Credentials; those in the environment by default.
        """
        try:
            from google import genai
            from google.genai import errors
        except ImportError:
            raise MissingCredentialsError(
                "Gemini models need Google's SDK, which is not installed. Nothing was sent; run: "
                "pip install 'batchata-prefect[gemini]'"
            ) from None
        import httpx2

        self._http = http_client(httpx2.AsyncClient, timeout=wire.timeouts())
        given = {} if key is None else key.arguments()
        http: Any = {"base_url": given.pop("base_url", None), "httpx_async_client": self._http}
        try:
            sdk = genai.Client(enterprise=False, http_options=http, **given)
        except ValueError:
            raise MissingCredentialsError(
                "no Gemini key: set GEMINI_API_KEY in the environment or in .env"
            ) from None
        # The SDK has no public name for what it has read from the environment.
        found: Any = sdk._api_client  # pyright: ignore[reportPrivateUsage]
        shown = found.get_read_only_http_options()
        self.api_key: str = found.api_key
        self.base_url: str = str(shown["base_url"]).rstrip("/")
        try:
            httpx2.URL(self.base_url)
        except httpx2.InvalidURL:
            raise MissingCredentialsError(
                "GOOGLE_GEMINI_BASE_URL or the base URL of the account is no address that can be "
                "called. Nothing was sent; look at its host and port"
            ) from None
        self._version: str = shown["api_version"]
        self._headers: dict[str, str] = dict(shown["headers"])
        self._errors: Any = errors

    async def get(self, path: str, *, stream: bool = False, **asked: Any) -> Any:
        """GET a path; `cast_to` and `options` as the other SDKs take them."""
        return await self._free("GET", path, asked, stream=stream)

    async def post(self, path: str, *, files: Sequence[Any] = (), **asked: Any) -> Any:
        """POST a body, or a file, which goes up by the resumable protocol in one piece."""
        if files:
            return await self._upload(path, files[0][1], asked)
        return await self._send("POST", path, asked)

    async def delete(self, path: str, **asked: Any) -> Any:
        """DELETE what is at a path."""
        return await self._free("DELETE", path, asked)

    async def _free(
        self, method: str, path: str, asked: Mapping[str, Any], *, stream: bool = False
    ) -> Any:
        """A call that costs nothing, repeated as the other SDKs do it."""
        for attempt in range(wire.RETRIES):
            try:
                return await self._send(method, path, asked, stream=stream)
            except Exception as error:
                failure = classify(error)
                if failure.kind != "wait":
                    raise
            await asyncio.sleep(failure.seconds or _BREATH_SECONDS * 2**attempt)
        return await self._send(method, path, asked, stream=stream)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def _upload(self, path: str, file: Any, asked: Mapping[str, Any]) -> Any:
        _, data, media_type = file
        size = await asyncio.to_thread(_size, data)
        options: dict[str, Any] = {**asked["options"], "headers": {}}
        begun = await self._send(
            "POST",
            f"{self.base_url}/upload/{self._version}{path}",
            {"content": orjson.dumps(asked["body"]), "options": options},
            headers={
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(size),
                "X-Goog-Upload-Header-Content-Type": media_type,
            },
        )
        # As the SDK does: whatever host it names, the bytes go where the client's requests go.
        base = urlsplit(self.base_url)
        place = urlsplit(str(begun.headers.get("x-goog-upload-url", "")))
        address = urlunsplit((base.scheme, base.netloc, place.path, place.query, ""))
        return await self._send(
            "POST",
            address,
            {"content": data if isinstance(data, bytes) else pieces(data), "options": options},
            headers={
                "X-Goog-Upload-Command": "upload, finalize",
                "X-Goog-Upload-Offset": "0",
                "Content-Length": str(size),
                "Content-Type": media_type,
            },
        )

    async def _send(
        self,
        method: str,
        path: str,
        asked: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> Any:
        options: Mapping[str, Any] = asked.get("options") or {}
        more: dict[str, Any] = {"timeout": options["timeout"]} if "timeout" in options else {}
        request = self._http.build_request(
            method,
            path if "://" in path else f"{self.base_url}/{self._version}{path}",
            params=options.get("params") or None,
            headers={**self._headers, **options.get("headers", {}), **(headers or {})},
            content=asked.get("content"),
            **more,
        )
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code >= 300:
                await self._refuse(response)
            if not stream:
                await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _refuse(self, response: Any) -> None:
        """Raise the SDK's own error, with what `failures` reads of those of the other SDKs."""
        await response.aread()
        told: Any = None
        with suppress(orjson.JSONDecodeError):
            told = orjson.loads(response.content)
        status = response.status_code
        page: Any = {"message": response.text, "status": response.reason_phrase}
        shown = page if not isinstance(told, dict) else cast("Any", told)
        try:
            await self._errors.APIError.raise_error_async(status, shown, response)
        except self._errors.APIError as error:
            error.status_code, error.body = status, told
            # The SDK writes the whole body, with links and quotas, into its text.
            error.args = (f"{status} {error.status}: {error.message}",)
            raise


async def pieces(file: BinaryIO | RawIOBase) -> AsyncIterator[bytes]:
    """What is in an open file, piece by piece."""
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece


def _size(data: bytes | BinaryIO) -> int:
    if isinstance(data, bytes):
        return len(data)
    size = data.seek(0, SEEK_END)
    data.seek(0)
    return size
