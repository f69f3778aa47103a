"""Outputs of the compiled part where there is no Kafka: what was written into record batches, read back."""

from aiokafka.record.memory_records import MemoryRecords

from models.crediting import Publication, Source
from streams.compiled import CompiledOutput
from streams.native import Native
from streams.publish import Output


def new_output(native: Native | None, partition: int) -> Output:
    """An output for `published`, with the compiled part or without."""
    if native is None:
        return Output()
    return CompiledOutput(native, partition, lambda kind, offset: ("touchstream-source", f"{kind}/{offset}".encode()))


def published(output: Output) -> list[Publication]:
    """Everything an output publishes on the topic of credits, however it keeps it; the output is spent then."""
    if not isinstance(output, CompiledOutput):
        return output.publications
    found = list(_read(output))
    for home, (source, records, _) in output.sends_away():
        found.append(Publication(source, list(records), [home]))
    return found


def _read(output: CompiledOutput) -> list[Publication]:
    found: list[Publication] = []
    for batch, count in output.close():
        read = list(MemoryRecords(bytes(batch._build())).next_batch())
        assert len(read) == count
        for record in read:
            (schema, _), (_, place) = record.headers
            assert schema == "touchstream-schema"
            kind, offset = place.decode().split("/")
            source = Source(kind, int(offset), record.timestamp)
            if not found or found[-1].source != source:
                found.append(Publication(source, []))
            found[-1].records.append((record.key, record.value))
    return found
