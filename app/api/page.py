"""The API's own page: every address with its parameters, made from the OpenAPI description.

No script and nothing from elsewhere, so it works offline and under the strictest content policy. FastAPI's
usual pages load Swagger UI or ReDoc from a content network, which a private server must not.
"""

from __future__ import annotations

from html import escape
from typing import Any

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2.5rem 0 0.25rem; font-size: 1.1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { padding: 0.75rem; overflow-x: auto; background: rgba(128, 128, 128, 0.15); border-radius: 0.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 1rem 0.25rem 0; }
th { font-weight: 600; border-bottom: 1px solid rgba(128, 128, 128, 0.4); }
"""


def render(openapi: dict[str, Any]) -> str:
    """Return the page of an OpenAPI description, as HTML."""
    info = openapi["info"]
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"{_paragraphs(info.get('description', ''))}"
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{operations}</main></body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        _row(one["name"], one["in"], one["schema"], one.get("description", ""))
        for one in operation.get("parameters", [])
    )
    body = operation.get("requestBody")
    if body is not None:
        kinds = ", ".join(body["content"])
        rows += (
            f"<tr><td>(body)</td><td><code>{escape(kinds)}</code></td><td>see openapi.json</td><td></td></tr>"
        )
    table = (
        f"<table><tr><th>Name</th><th>Where</th><th>Type</th><th>Meaning</th></tr>{rows}</table>"
        if rows
        else ""
    )
    answers = ", ".join(f"{status} {one['description']}" for status, one in operation["responses"].items())
    return (
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"{_paragraphs(operation.get('description') or operation.get('summary', ''))}{table}"
        f"<p>Answers: {escape(answers)}</p></section>"
    )


def _row(name: str, where: str, schema: dict[str, Any], meaning: str) -> str:
    cells = (f"<code>{escape(name)}</code>", escape(where), escape(_type(schema)), escape(meaning))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    bounds = [
        f"{sign} {schema[key]}" for key, sign in (("minimum", ">="), ("maximum", "<=")) if key in schema
    ]
    default = f" (default {schema['default']})" if schema.get("default") is not None else ""
    return " ".join([str(schema.get("type", "")), *bounds]) + default


def _paragraphs(text: str) -> str:
    """Text with empty lines between paragraphs; indented ones are shown as they are."""
    parts = []
    for part in text.strip("\n").split("\n\n"):
        if part.startswith("    "):
            lines = "\n".join(line.removeprefix("    ") for line in part.splitlines())
            parts.append(f"<pre>{escape(lines)}</pre>")
        else:
            parts.append(f"<p>{escape(part)}</p>")
    return "".join(parts)
