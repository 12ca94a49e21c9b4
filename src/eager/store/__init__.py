"""The run's memory: an append-only journal with lock and resume, and the documented result JSON made from it."""

from eager.atomic import replacing
from eager.store.journal import FORMAT_VERSION, JOURNAL_NAME, Journal, StoreError
from eager.store.records import PromptRecord, SequenceRecord, merged
from eager.store.result_file import generations_key, prompt_entry, write_result_file

__all__ = [
    "FORMAT_VERSION",
    "JOURNAL_NAME",
    "Journal",
    "PromptRecord",
    "SequenceRecord",
    "StoreError",
    "generations_key",
    "merged",
    "prompt_entry",
    "replacing",
    "write_result_file",
]
