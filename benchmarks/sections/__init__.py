"""What benchmarks/speed.py measures, by what is measured."""
