"""``edgeface doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeface.cli.console import OUT, Json, print_json


def doctor(
    host: Annotated[str | None, typer.Option(help="Examine another machine by ssh, as in pi@192.168.1.20.")] = None,
    host_python: Annotated[str, typer.Option(help="With --host: command of the Python there.")] = "python3",
    ssh_option: Annotated[
        list[str] | None, typer.Option(help="With --host: an option for ssh -o, as in Port=2222; may repeat.")
    ] = None,
    json: Json = False,
) -> None:
    """Check whether a machine can run edgeface: one line a finding, each fault with its remedy.

    System, Python, engines (each is started in a process of its own, so that one that dies is seen and named), numpy,
    memory, power, heat, cameras and whether this user may open them, extras.
    Exit code 1: something is wrong.

    \b
    Examples:
      edgeface doctor
      edgeface doctor --host pi@192.168.1.20
      edgeface doctor --json
    """
    from edgeface_devices.doctor import examine
    from edgeface_devices.remote.examine import examine_host

    findings = examine() if host is None else examine_host(host, options=ssh_option or (), python=host_python)
    if json:
        print_json({"schema": 1, "host": host, "findings": [finding.as_json() for finding in findings]})
    else:
        for finding in findings:
            remedy = f" → {finding.remedy}" if finding.remedy else ""
            OUT.print(f"{finding.level:5} {finding.topic}: {finding.text}{remedy}", soft_wrap=True)
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)
