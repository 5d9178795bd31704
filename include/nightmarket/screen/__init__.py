"""Fraud screening: what a row, its customer, device, card, address or review looked like at that moment, and what to do about it."""
