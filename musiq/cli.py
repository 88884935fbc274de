"""The `musiq-score` command, and what all commands of this project share: how errors end."""

from __future__ import annotations

from typing import Any

import click

from musiq.errors import MusiqError


class Command(click.Command):
    """A command whose user errors are one line on stderr and exit code 1, never a traceback.

    Ctrl-C exits with 130. A reader that goes away (`| head`) ends it quietly, which click itself sees to.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MusiqError as problem:
            click.echo("Error: " + " ".join(str(problem).split()), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
