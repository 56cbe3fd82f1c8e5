"""Send HTTP requests to Triton on this machine."""

import http.client
import urllib.request

HTTP_URL = "EMOSERVE_HTTP_URL"  # environment variable with Triton's HOST:PORT or [IPV6]:PORT; serving.Triton sets it
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # HTTP_PROXY is for other machines


def get(url: str, timeout: float) -> str:
    """Return the body of the answer to a GET request.

    Args:
        url: the URL, whose host is this machine.
        timeout: longest time without data, in seconds.

    Raises:
        OSError: there is no answer, its status is not 2xx, or it is not HTTP.
        ValueError: the answer is not UTF-8.
    """
    try:
        with _DIRECT.open(url, timeout=timeout) as answer:
            return str(answer.read(), "utf-8")
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error}") from error
