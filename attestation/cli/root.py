"""The `enclave` command. Subcommands come from the entry-point group `enclave.commands`.

Each is imported when it is asked for, so one that cannot be imported (a plug-in without its
library, a worker without its device) is listed as such and the others go on working.
"""

import errno
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, Final

import click

from attestation import logging
from attestation.cli.extras import missing_extra
from attestation.cli.output import ExitCode, note, report_error
from attestation.errors import EnclaveError, UnavailableError

GROUP: Final = "enclave.commands"

_EPILOG: Final = """\b
Examples:
  enclave demo
  enclave coordinator --listen tcp://127.0.0.1:5700 --state ./state
  enclave worker --coordinator tcp://127.0.0.1:5700
  enclave submit linalg.matmul -i a=a.npy -i b=b.npy -o out --policy policy.toml
  enclave verify out/job.evidence --policy policy.toml --at 2026-01-31T12:00:00Z

\b
Exit status:
  0    done
  1    verification refused something, or the job failed
  2    the command line, a policy, a program or an input is not usable
  3    something is missing: a coordinator, a device, a file
  130  interrupted

Shell completion: eval "$(_ENCLAVE_COMPLETE=bash_source enclave)" (also zsh_source, fish_source).
"""


class CommandUnavailableError(UnavailableError):
    """A subcommand cannot be imported. Install what the message names, or remove the plug-in."""

    code = "command-unavailable"


class _LazyGroup(click.Group):
    """A click group whose commands are entry points, and whose errors are lines with a code."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted({point.name for point in entry_points(group=GROUP)})

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        points = list(entry_points(group=GROUP, name=cmd_name))
        return _load(points) if points else None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (EnclaveError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output went away: click ends quietly
            ctx.exit(report_error(ctx, error))
        except ImportError as error:
            # Some commands load what they need when they have read their options.
            said = missing_extra(ctx.invoked_subcommand, error)
            if not said:
                raise
            ctx.exit(report_error(ctx, CommandUnavailableError(said)))
        except KeyboardInterrupt:
            note("interrupted")
            ctx.exit(ExitCode.INTERRUPTED)


def _load(points: list[EntryPoint]) -> click.Command:
    name = points[0].name
    if len({point.value for point in points}) > 1:
        # Two distributions claim the name: running either would be a guess.
        return _unavailable(name, "several installed packages claim this name")
    try:
        command = points[0].load()
    except ImportError as error:
        return _unavailable(name, missing_extra(name, error) or f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - whatever a plug-in raises, the rest must work
        return _unavailable(name, f"{type(error).__name__}: {error}")
    if not isinstance(command, click.Command):
        return _unavailable(name, "its entry point is not a command")
    return command


def _unavailable(name: str, reason: str) -> click.Command:
    def fail(args: tuple[str, ...]) -> None:  # noqa: ARG001 - click passes the arguments by name
        raise CommandUnavailableError(f"{name} cannot be loaded ({reason})")

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)],
        help=f"(unavailable: {reason})",
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
    )


@click.group(
    cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(version("enclave-worker"), prog_name="enclave")
@click.option(
    "--log-format",
    type=click.Choice(logging.FORMATS),
    default="console",
    envvar="ENCLAVE_LOG_FORMAT",
    show_default=True,
    help="How log lines are written to standard error.",
)
@click.option(
    "--log-level",
    type=click.Choice(logging.LEVELS),
    default="info",
    envvar="ENCLAVE_LOG_LEVEL",
    show_default=True,
    help="The least important log line that is written.",
)
def root(log_format: logging.Format, log_level: str) -> None:
    """Run computations on other people's machines, and check for yourself that they did it right.

    Tensors are sealed on your machine to hardware whose evidence your policy accepted; results come
    back with a receipt that anyone can verify.
    """
    logging.configure(log_format, log_level)


def main() -> None:
    """Run the command line of this process."""
    root(prog_name="enclave")
