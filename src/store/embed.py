"""Writes text files as C byte arrays: embed.py OUTPUT NAME=FILE..."""
import sys

with open(sys.argv[1], "w", encoding="ascii") as out:
    for argument in sys.argv[2:]:
        name, path = argument.split("=", 1)
        data = open(path, "rb").read() + b"\0"
        out.write(f"extern const char {name}[];\nconst char {name}[] = {{\n")
        for at in range(0, len(data), 24):
            out.write(",".join(str(b) if b < 128 else str(b - 256) for b in data[at:at + 24]) + ",\n")
        out.write("};\n")
