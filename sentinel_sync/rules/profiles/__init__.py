"""How two versions of a driver profile become one."""
