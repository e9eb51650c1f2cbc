"""Run folders on disk: records, states, locks, manifests, and who is told how work goes. Loads no torch."""
