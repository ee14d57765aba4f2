"""What must outlive the process: users, keys, sealed provider keys, usage, the audit log.

The store itself is :class:`gateway.store.store.Store`; what passes through it are the values named here, which cost no
database library to import.
"""

from __future__ import annotations

from gateway.store.records import ApiKey, AuditEntry, AuditVerdict, Grant, SealedKey, UsageRow, User

__all__ = ["ApiKey", "AuditEntry", "AuditVerdict", "Grant", "SealedKey", "UsageRow", "User"]
