/* Delta_norm and its classes (design section 3; Minder et al., arXiv 2504.02922). */
#include "darkfield/diff.h"

const char *df_class_name(df_class c) {
    static const char *const names[DF_CLASSES] = {"A-only", "A-leaning", "shared", "B-leaning",
                                                  "B-only"};
    return names[c];
}

df_class df_class_of(double delta_norm) {
    if (delta_norm < 0.1) return DF_A_ONLY;
    if (delta_norm < 0.4) return DF_A_LEANING;
    if (delta_norm <= 0.6) return DF_SHARED;
    return delta_norm <= 0.9 ? DF_B_LEANING : DF_B_ONLY;
}

double df_delta_norm(double norm_a, double norm_b) {
    double larger = norm_a > norm_b ? norm_a : norm_b;
    return larger > 0.0 ? 0.5 * ((norm_b - norm_a) / larger + 1.0) : 0.5;
}
