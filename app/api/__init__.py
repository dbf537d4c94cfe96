"""The HTTP API: the same search for programs, in any language, on this machine or another.

`server.serve` is `imago serve`; `application.create_api` makes the ASGI application for those who mount it
themselves. Docs: `/docs` and `/openapi.json` of a running server.
"""
