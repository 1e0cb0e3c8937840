"""Webhooks by Standard Webhooks 1.0: what is sent, how it is signed, where it may go, when it is tried again."""
