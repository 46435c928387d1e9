"""Adapters to other libraries; each is imported by its own name, such as `lpsphere.integrations.sklearn`."""
