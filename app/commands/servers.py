"""Commands that serve until Ctrl-C: the browser app and the HTTP API."""

from __future__ import annotations

import os
from pathlib import Path

import click

from app.options import place_option


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; others see it if changed.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser window.")
@place_option
def app(port: int, host: str, browser: bool, library_path: Path | str) -> None:
    """Open the search page in a browser."""
    from app.browser.server import serve as serve_pages

    serve_pages(library_path, host=host, port=port, open_browser=browser)


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8600, show_default=True, help="0 takes a free one."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address; others need the token if changed."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Also answer requests for this host name.")
@place_option
def serve(port: int, host: str, allow_host: tuple[str, ...], library_path: Path | str) -> None:
    """Serve the library to programs over HTTP; the server's /docs page explains how.

    Requests must carry the token in IMAGO_API_TOKEN where it is set; beyond this machine it must be.
    """
    from app.api.server import serve as serve_api
    from app.api.settings import TOKEN_VARIABLE, ApiSettings, ApiSettingsError

    try:
        settings = ApiSettings(
            library_path,
            host=host,
            port=port,
            token=os.environ.get(TOKEN_VARIABLE) or None,
            allowed_hosts=allow_host,
        )
    except ApiSettingsError as error:
        raise click.ClickException(str(error)) from error
    serve_api(settings, lambda line: click.echo(line, err=True))
