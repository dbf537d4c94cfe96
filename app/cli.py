"""The command line: what `imago` can do.

Results go to stdout, everything else to stderr. Commands import what they need when they run, so that
`--help` and a search stay fast.
"""

from __future__ import annotations

import click

from app.commands import evaluate, index, library, models, publish, search, servers, train
from app.failures import TranslatedGroup
from app.progress import tell_of_waiting


@click.group(
    cls=TranslatedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: imago index ~/Pictures",
)
@click.version_option(package_name="imago-search", prog_name="imago")
def imago() -> None:
    """Find pictures by what they show: index folders once, then search by words or by picture."""
    tell_of_waiting()


for command in (
    index.index,
    publish.publish,
    search.search,
    search.similar,
    search.duplicates,
    search.save,
    search.saved,
    library.status,
    library.roots,
    library.forget,
    library.doctor,
    models.models,
    servers.app,
    servers.serve,
    evaluate.evaluate,
    train.train,
):
    imago.add_command(command)
