"""An MCP server of the official Python SDK, for the tests.

    server.py NAME FOLDER [--json] [--stateless] [--tools COUNT]

It prints its port once it listens. With a file `token` in FOLDER it answers 401 to whoever has not the token in it. Calls of
`slowly` note themselves in `calls` there and wait for the file `go`.
"""

import argparse
import asyncio
import base64
import socket
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.types import EmbeddedResource, TextResourceContents
from pydantic import BaseModel

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Weather(BaseModel):
    city: str
    degrees: int


class Guard:
    """Answers 401 to whoever does not have the token."""

    def __init__(self, app, token: Path) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and self.token.exists():
            wanted = f"Bearer {self.token.read_text()}".encode()
            if dict(scope["headers"]).get(b"authorization") != wanted:
                headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
        await self.app(scope, receive, send)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("name")
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--stateless", action="store_true")
    arguments.add_argument("--tools", type=int, default=0)
    options = arguments.parse_args()
    server = MCPServer(options.name, log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.tool()
    def weather(city: str) -> Weather:
        """Says how warm it is."""
        return Weather(city=city, degrees=21)

    @server.tool()
    def picture() -> Image:
        """Shows a picture."""
        return Image(data=PIXEL, format="png")

    @server.tool()
    def notes() -> EmbeddedResource:
        """Gives the notes."""
        text = TextResourceContents(uri="notes://today", mime_type="text/plain", text="buy milk")
        return EmbeddedResource(type="resource", resource=text)

    @server.tool()
    def fails() -> str:
        """Never works."""
        raise ValueError("it is broken")

    @server.tool()
    async def slowly(ctx: Context) -> str:
        """Takes its time."""
        with (options.folder / "calls").open("a") as calls:
            calls.write("call\n")
        while not (options.folder / "go").exists():
            await ctx.report_progress(1, 2)
            await asyncio.sleep(0.05)
        return "at last"

    @server.tool()
    async def grow(ctx: Context) -> str:
        """Adds another tool."""
        server.add_tool(lambda: "grown", name="grown", description="Was not there before.")
        await ctx.session.send_tool_list_changed()
        return "there is more"

    for number in range(options.tools):
        server.add_tool(lambda number=number: f"{options.name} {number}", name=f"tool_{number}", description="Says who it is.")

    app = server.streamable_http_app(json_response=options.json, stateless_http=options.stateless)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(Guard(app, options.folder / "token"), log_level="error")
    uvicorn.Server(config).run(sockets=[listener])


main()
