"""Run folders on disk: records, states, locks, manifests, and progress reporting. Loads no torch."""
