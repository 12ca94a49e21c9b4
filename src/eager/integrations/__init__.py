"""EAGer inside other libraries: TRL's trainers, lm-evaluation-harness (docs/training.md).

Each module needs the library that it is named after, and is imported by its own name.
"""
