# Leaves out of entitlements what only a provisioning profile grants: a program that is signed without one and has it is not started.
# Such a key and its value have a line each.
/<key>com\.apple\.developer\./{
N
d
}
