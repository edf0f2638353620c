"""What ``edgeface bench`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeface.cli.console import OUT, note, print_table

if TYPE_CHECKING:
    from edgeface_devices.results import Results
    from edgeface_devices.verdicts import Verdict


def print_results(results: Sequence[Results], verdict: Verdict) -> None:
    """One machine's own table, or all machines in one; then what else was asked for."""
    from edgeface_devices.verdicts import change_table

    if len(results) == 1:
        _print_one(results[0])
    else:
        _print_all(verdict)
    _print_ways(verdict)
    if verdict.changes:
        title = "against the earlier run; noise: how far the rounds of both runs move"
        print_table(title, *change_table(verdict.changes))
        for line in dict.fromkeys(line for change in verdict.changes for line in change.notes):
            note(line)
    for choice in verdict.choices:
        OUT.print(choice.line, soft_wrap=True)


def _print_all(verdict: Verdict) -> None:
    from edgeface_devices import results as tables
    from edgeface_devices.measurement import names

    named = names(verdict.rows)
    for name, rows in tables.by_board(verdict.rows).items():
        title = f"{name} (times in ms, peak and size in MB, accuracy in %)"
        print_table(title, *tables.board_table(rows, named))
    print_table("", ["rests on"], [[f"{which}: {text}"] for which, text in tables.origins(verdict.rows)])


def _print_ways(verdict: Verdict) -> None:
    from edgeface_devices import way_tables as tables

    rows = [row for row in verdict.rows if row.photo]
    for row in rows:
        for setting, ways in tables.by_setting(row).items():
            print_table(tables.title(row, setting), *tables.way_table(ways))
    if any(row.source == "estimated" for row in rows):
        print_table("", *tables.reasons(rows))


def _print_one(results: Results) -> None:
    from edgeface_devices import results as tables
    from edgeface_devices.measurement import names

    device, rows = results.device, results.rows
    if device.source == "estimated":
        title = f"{device.name} at {device.clock_mhz} MHz, threads: {rows[0].threads}: estimated, not measured"
        print_table(title, *tables.estimate_table(rows))
        print_table("", *tables.grounds_table(rows))
    elif device.source == "emulated":
        title = f"{device.name} (instructions of a call in millions, never times; top-1 in %)"
        print_table(title, *tables.emulated_table(rows))
        named = names(rows)
        estimates = [[f"{named[row.path]}: {row.note}"] for row in rows if row.estimate]
        if estimates:
            print_table("", ["estimated, neither measured nor emulated"], estimates)
    elif results.state is None:
        conditions = f"{device.name}, threads: {rows[0].threads}, calls: {rows[0].calls}"
        print_table(f"{conditions} (times in ms, peak and size in MB, top-1 in %)", *tables.measured_table(rows))
        if results.ratios:
            title = "median time and size, the first file's divided by the second's"
            print_table(title, *tables.ratio_table(results))
    else:
        print_table(f"{device.name} (times in ms, peak in MB; top-1 in %)", *tables.remote_table(rows))
        print_table("", *tables.conditions_table(results.state))
        if results.sustained:
            print_table("median ms of each repetition", *tables.sustained_table(results))
