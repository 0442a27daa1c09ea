"""Attacks: fuzzing, kills, faults of writing, a soak; docs/guarantees.md has their figures.

Modules ``fuzz_NAME`` are targets of ``python -m user_dir_tests.attacks``: ``seeds()`` gives valid inputs, and
``attack(data)`` feeds bytes to a parser.  An error that the user can mend is a right answer, another one is a finding.
"""
