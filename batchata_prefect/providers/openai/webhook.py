"""The signature of OpenAI's webhooks."""

from __future__ import annotations

from collections.abc import Mapping


def verify(body: bytes, headers: Mapping[str, str], secret: str) -> None:
    """Check that OpenAI has signed an event, within the last five minutes.

    Raises:
        Exception: It has not; what anybody sends may break the SDK's own check in many ways.
    """
    import openai

    # Its client is not used for calls here.
    client = openai.OpenAI(api_key="unused", webhook_secret=secret)
    client.webhooks.verify_signature(body, headers)
