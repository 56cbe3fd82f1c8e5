"""Asks Triton over HTTP, on this machine."""

import http.client
import urllib.request

HTTP_URL = "EMOSERVE_HTTP_URL"  # environment variable with Triton's HOST:PORT or [IPV6]:PORT; serving.Triton sets it
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # HTTP_PROXY and its like are for other machines


def get(url: str, timeout: float) -> str:
    """What is answered.

    Args:
        timeout: s.

    Raises:
        OSError: no answer, another status than 2xx, or no HTTP.
        ValueError: the answer is not UTF-8.
    """
    try:
        with _DIRECT.open(url, timeout=timeout) as answer:
            return str(answer.read(), "utf-8")
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error}") from error
