"""One measurement: watched samples, masked forward passes, interactions, on however many ranks."""
