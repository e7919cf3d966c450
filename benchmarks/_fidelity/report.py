def show(groups, store):
    pass


def save(groups, store, session):
    pass
