"""How batches come into being in a test: numbered for chaos, stored in bulk, with workers when none run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from commandbus import BatchCommand

    from .command_batch import CommandBatch
    from .process_batch import ProcessBatch
    from .runtime import Runtime

InitialData = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[int], Mapping[str, Any]] | None


async def start_process_batch(
    runtime: "Runtime",
    manager: Any,
    *,
    count: int = 1,
    initial_data: InitialData = None,
    first_ordinal: int = 0,
    batch_number: int | None = None,
    name: str | None = None,
    workers: int = 2,
    concurrency: int = 10,
    processes: bool | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> "ProcessBatch":
    """Create a PROCESS batch with its processes, start workers when none run, and return its handle."""
    from commandbus import CommandBus

    from .behavior import BehaviorRepository
    from .process_batch import ProcessBatch

    known = runtime.manager(manager)
    number = runtime.next_batch_number() if batch_number is None else batch_number
    ordinals = range(first_ordinal, first_ordinal + count)
    await runtime.store_rules()
    bus = CommandBus(runtime.pool)
    batch_id = await bus.create_process_batch(known.domain, count, name=name or runtime.item.name)
    runtime.batch_numbers[str(batch_id)] = number
    await BehaviorRepository(runtime.pool).number_batch(batch_id, number)
    await known.start_many(
        expand_data(initial_data, ordinals), batch_id=batch_id, first_ordinal=first_ordinal, on_progress=on_progress
    )
    runtime.ledger.fill(batch_id, count)
    batch = ProcessBatch(
        runtime, known, batch_id, await bus.get_batch(known.domain, batch_id), ordinals=ordinals, number=number
    )
    runtime.batches.append(batch)
    if workers:
        await runtime.ensure_workers(workers, concurrency, processes)
    return batch


async def start_command_batch(
    runtime: "Runtime",
    domain: str,
    commands: "Sequence[BatchCommand]",
    *,
    name: str | None = None,
    workers: int = 2,
    concurrency: int = 10,
    processes: bool | None = None,
) -> "CommandBatch":
    """Create a COMMAND batch, start workers when none run, and return its handle."""
    from commandbus import CommandBus

    from .behavior import BehaviorRepository
    from .command_batch import CommandBatch

    await runtime.store_rules()
    bus = CommandBus(runtime.pool)
    number = runtime.next_batch_number()
    # Together, or workers that run already could roll for a batch that has no number yet.
    async with runtime.pool.connection() as connection, connection.transaction():
        batch_id = await bus.create_batch(domain, commands, name=name or runtime.item.name, conn=connection)
        runtime.batch_numbers[str(batch_id)] = number
        await BehaviorRepository().number_batch(batch_id, number, conn=connection)
    runtime.ledger.fill(batch_id, len(commands))
    batch = CommandBatch(runtime, domain, batch_id, await bus.get_batch(domain, batch_id))
    runtime.batches.append(batch)
    if workers:
        await runtime.ensure_workers(workers, concurrency, processes)
    return batch


def expand_data(given_data: InitialData, ordinals: range) -> Iterator[dict[str, Any]]:
    """Yield the data of each ordinal: the same for all, its own of a list, or what the given function makes of it.

    Errors: pytest.UsageError for a list of another length.
    """
    if isinstance(given_data, Sequence) and len(given_data) != len(ordinals):
        raise pytest.UsageError(
            f"a list of data has one for each member, and {len(given_data)} were given for {len(ordinals)}: "
            "let count= be its length"
        )
    for ordinal in ordinals:
        if isinstance(given_data, Sequence):
            given: Mapping[str, Any] | None = given_data[ordinal - ordinals.start]
        else:
            given = given_data(ordinal) if callable(given_data) else given_data
        yield dict(given or {})
