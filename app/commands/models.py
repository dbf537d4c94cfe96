"""`imago models`: what one can choose from."""

from __future__ import annotations

from typing import Any

import click

from app import output
from app.options import json_option


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the models that have short names: size, languages, licence, quality, and what is on this disk."""
    from model.registry import ALIASES, DEFAULT_ALIAS, is_on_disk

    rows: list[dict[str, Any]] = [
        {
            "name": alias.name,
            "hub_id": alias.hub_id,
            "summary": alias.summary,
            "is_default": alias.name == DEFAULT_ALIAS,
            "is_on_disk": is_on_disk(alias.name),
            "download_bytes": alias.download_bytes,
            "languages": alias.languages,
            "licence": alias.licence,
            "quality": [
                {"measure": quality.measure, "percent": quality.value, "source": quality.source}
                for quality in alias.quality
            ],
        }
        for alias in ALIASES.values()
    ]
    if as_json:
        output.print_json({"models": rows})
        return
    for row in rows:
        place = "on disk" if row["is_on_disk"] else f"{row['download_bytes'] / 1e9:.1f} GB to fetch"
        click.echo(f"{row['name']:<10}{row['summary']}")
        click.echo(
            f"{'':<10}{place}; {row['languages']}; {row['licence']}; {row['hub_id'] or 'in this package'}"
        )
        for quality in row["quality"]:
            click.echo(f"{'':<10}{quality['measure']}: {quality['percent']:.1f} % ({quality['source']})")
    click.echo("Any other CLIP, SigLIP or OpenCLIP checkpoint works too, by its hub id or its folder.")
