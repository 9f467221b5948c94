"""The command line: thin over the API. ``inhouse --help`` imports click and nothing else.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a step or a gate
failed, 2 the recipe or the command is wrong, 3 a plugin is at fault, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

OWN = ("run", "plugins")
"""The core's own commands; each lives in the module of its name. The others come from plugins."""

COMMANDS = {
    "init": "Write a recipe to start from.",
    "run": "Run a recipe; finished steps are not run again.",
    "plan": "Show what would run, what is cached, and what it needs.",
    "tune": "Search for the setting with the lowest held-out loss.",
    "report": "Show what the last run made and measured.",
    "ask": "Ask a bundle one question.",
    "chat": "Talk with a bundle.",
    "knowledge": "Search, examine and tune a knowledge base.",
    "verify": "Check every digest of a bundle.",
    "diff": "Say what differs between two bundles.",
    "reproduce": "Make a bundle again and compare every step.",
    "step": "Run one stage alone: inhouse step quantizer gguf MODEL.",
    "config": "Show every value of a recipe and where it came from.",
    "plugins": "List plugins, what they bring, and what is wrong with them.",
    "artifacts": "List or verify what is in the store.",
    "events": "Show, follow or replay the events of a run.",
    "doctor": "Check this machine and the installed plugins.",
    "bench": "Measure this machine with a model made on the spot.",
}
"""What ``--help`` lists without loading a plugin: the core's own and the first-party ones, in the order of use."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OWN:
            return import_module(f"inhouse.cli.{cmd_name}").command  # type: ignore[no-any-return]
        from inhouse.cli.common import open_kernel
        from inhouse.errors import PluginError

        registry = open_kernel(None).registry
        name = cmd_name.rpartition(":")[2]  # of two plugins with one command: distribution:name
        if name not in COMMANDS and not any(each.spec.name == name for each in registry.all("command")):
            return None
        backend = registry.get("command", cmd_name)
        if not isinstance(made := backend.load(), click.Command):
            raise PluginError(f"{backend.spec.factory} is no click command", plugin=backend.label)
        return made

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.indentation():
            formatter.write_text("Plugins may bring more: inhouse plugins")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="inhouse")
def cli() -> None:
    """From a raw open-weight language model to a private specialist, on hardware you already have."""


def main() -> None:
    """The console script: typed errors become one clear line and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        code = 130
    except Exception as error:
        from inhouse.errors import InhouseError

        if not isinstance(error, (InhouseError, OSError)):
            raise
        click.echo(f"error: {error}", err=True)
        code = error.exit_code if isinstance(error, InhouseError) else 1
    sys.exit(code if isinstance(code, int) else 0)
