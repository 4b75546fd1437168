// weight · Σ (logsumexp(logits) - logits[class]), the class being a number (losses.rs).
#include "rows.cuh"

using namespace theria;

struct CrossEntropy {
    double weight;

    explicit THERIA_DEVICE CrossEntropy(const double *constants) : weight(constants[0]) {}

    // The class of a row; -1 if the number names none, and the loss is NaN.
    template <class X> static THERIA_DEVICE int class_of(Row row, X x) {
        double number = value_of(x(1, 0));
        return number >= 0 && number < row.width(0) && number == floor(number) ? int(number) : -1;
    }
    template <class X> static THERIA_DEVICE double largest(Row row, X x) {
        return row.largest<double>(row.width(0), [&](int n) { return double(value_of(x(0, n))); });
    }

    template <class N, class X, class Y> THERIA_DEVICE void value(Row row, X x, Y y) const {
        int hit = class_of(row, x);
        N most = N(largest(row, x));
        N sum = row.sum<N>(row.width(0), [&](int n) { return exp_of(x(0, n) - most); });
        row.once([&] {
            N of_class = hit < 0 ? N(double(not_a_number())) : x(0, hit);
            y.add(0, N(weight) * (log_of(sum) + most - of_class));
        });
    }
    template <class N, class X, class G, class I> THERIA_DEVICE void pull(Row row, X x, G g, I into) const {
        int hit = class_of(row, x);
        N most = N(largest(row, x));
        N sum = row.sum<N>(row.width(0), [&](int n) { return exp_of(x(0, n) - most); });
        row.each(row.width(0), [&](int n) {
            N share = exp_of(x(0, n) - most) / sum - N(n == hit ? 1 : 0);
            into.add(0, n, N(weight) * g(0) * share);
        });
        // A class is no number that could vary.
        row.once([&] { into.add(1, 0, N(0)); });
    }
};

THERIA_ROWS(CrossEntropy)
