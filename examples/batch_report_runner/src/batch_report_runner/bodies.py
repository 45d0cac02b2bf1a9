"""No request body beyond a limit, whatever its headers say."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Answers 413 to a body of more than `most` bytes: at once when it is announced, else as soon as it is too long."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        is_long = not announced.isdigit() or int(announced) > self._most
        while more and not is_long:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            is_long = len(body) > self._most
        if is_long:
            error = {"code": "TOO_LARGE", "message": f"a request has at most {self._most} bytes"}
            await JSONResponse({"error": error}, 413)(scope, receive, send)
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)
