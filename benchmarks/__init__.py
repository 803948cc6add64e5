"""What a save costs, measured side by side with what people use today: `python -m benchmarks`."""
