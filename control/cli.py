"""Shell: `hotpool`, the command line. One file per group of commands; here what all of them share."""

from pathlib import Path
from typing import Any

import click

from hotpool import __version__
from hotpool.environment import find_home

from .cli_audit import audit
from .cli_classify import classify
from .cli_look import analysis
from .cli_pool import down, metrics, status, up, workers
from .cli_rollout import rollout
from .cli_versions import versions
from .terminal import Terminal, failures


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        with failures():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order a new user needs them


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hotpool")
@click.option("--home", type=click.Path(path_type=Path), help="The pool's folder.  [HOTPOOL_HOME, else ./var]")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Its configuration.  [HOTPOOL_CONFIG, else ./hotpool.toml]"
)
@click.pass_context
def cli(ctx: click.Context, home: Path | None, config: Path | None) -> None:
    """Serve image classifiers from CPU workers and change their weights while they serve.

    \b
    Example:
      hotpool up --detach
      hotpool versions add resnet18.pth --name v1
      hotpool classify cat.jpg
      hotpool rollout start --version v2
    """
    ctx.obj = Terminal(find_home(home), config)


for command in (up, down, status, workers, classify, versions, rollout, analysis, metrics, audit):
    cli.add_command(command)


def main() -> None:
    cli(prog_name="hotpool")


if __name__ == "__main__":
    main()
