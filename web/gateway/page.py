"""Serve the files of the page, compressed where the caller accepts it."""

import mimetypes
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

CODINGS = {"br": ".br", "gzip": ".gz"}  # the smallest first; the page's build writes both (web/ui/compress.js)


class PageFiles(StaticFiles):
    """Static files; in place of a file NAME, NAME.br or NAME.gz is sent if it exists and the caller accepts it."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the response with a file. This method is part of Starlette's interface."""
        accepting = Headers(scope=scope).get("accept-encoding", "").split(",")
        accepted = {part.partition(";")[0].strip() for part in accepting}
        copies = {coding: Path(f"{full_path}{ending}") for coding, ending in CODINGS.items()}
        available = {coding: copy for coding, copy in copies.items() if copy.is_file()}
        for coding, copy in available.items():
            if coding in accepted:
                response = super().file_response(copy, copy.stat(), scope, status_code)
                if response.status_code != 304:
                    response.headers["Content-Encoding"] = coding
                    response.headers["Content-Type"] = mimetypes.guess_type(full_path)[0] or "application/octet-stream"
                break
        else:
            response = super().file_response(full_path, stat_result, scope, status_code)
        if available:
            response.headers["Vary"] = "Accept-Encoding"
        return response
