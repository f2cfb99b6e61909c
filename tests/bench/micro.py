def run_all(build, quick):
    return {}
