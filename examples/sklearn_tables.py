"""A small sparse classifier for a table with a column of categories: pipeline, search, importances, pickle."""

import pickle

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from lpsphere.integrations.sklearn import LpSphereClassifier


def wines():
    """Rows of 13 columns, the hue of each wine put into words; classes; names of the columns."""
    data = load_wine()
    rows, hue = data.data.astype(object), data.feature_names.index("hue")
    rows[:, hue] = np.array(["red", "purple", "blue"])[np.digitize(data.data[:, hue], [0.8, 1.05])]
    return rows, data.target_names[data.target], data.feature_names


if __name__ == "__main__":
    x, y, names = wines()
    x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)

    words = make_column_transformer(
        (OneHotEncoder(), [names.index("hue")]), remainder="passthrough", verbose_feature_names_out=False
    )
    classifier = LpSphereClassifier(hidden=(64, 64), random_state=0)  # it standardises its columns itself
    pipeline = make_pipeline(words, classifier)
    search = GridSearchCV(pipeline, {"lpsphereclassifier__sparsity": [0.8, 0.9, 0.95]}, cv=3).fit(x_train, y_train)

    for setting, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        print(f"sparsity {setting['lpsphereclassifier__sparsity']}: accuracy {score:.4f} on the folds")
    best = search.best_estimator_
    columns = best[0].get_feature_names_out(names)
    importances = best[-1].feature_importances_
    for column in importances.argsort()[::-1][:5]:
        print(f"  {columns[column]:<30} {importances[column]:.3f}")

    restored = pickle.loads(pickle.dumps(best))
    same = np.array_equal(restored.predict_proba(x_test), best.predict_proba(x_test))
    accuracy = restored.score(x_test, y_test)
    print(f"the same after pickling: {same}; sparsity {best[-1].sparsity_:.4f}, test accuracy {accuracy:.4f}")
