"""`commandbus completion`: the script by which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

from commandbus.cli.failures import Misuse

PROGRAM = "commandbus"
VARIABLE = "_COMMANDBUS_COMPLETE"  # by which the script asks, as click reads it


@click.command(short_help="Print the script that completes commands in your shell.")
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which SHELL (bash, zsh or fish) completes commands and options.

    \b
    Examples:
      commandbus completion bash >~/.local/share/bash-completion/completions/commandbus
      commandbus completion zsh >~/.zfunc/_commandbus        # with ~/.zfunc in fpath
      commandbus completion fish >~/.config/fish/completions/commandbus.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Misuse(f"this version of click knows no {shell}; upgrade click")
    click.echo(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source())
