"""Prices, the ledger, and sums over it; pure."""
