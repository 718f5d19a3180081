"""Benchmarks: this package, a plain script over the SDKs, and a floor of transfers alone."""
