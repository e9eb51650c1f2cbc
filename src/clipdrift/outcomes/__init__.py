"""What a run is judged by: accuracy, zero-shot retention, drift. Loads no torch."""
