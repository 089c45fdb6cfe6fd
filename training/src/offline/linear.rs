//! Small dense linear algebra: sums of outer products, and the solution of the systems that they make.

use ndarray::{Array1, Array2, ArrayView1};

/// Adds `weight · left · rightᵀ`.
pub fn add_outer(to: &mut Array2<f64>, left: ArrayView1<'_, f64>, right: ArrayView1<'_, f64>, weight: f64) {
    for (mut row, l) in to.rows_mut().into_iter().zip(left) {
        if *l != 0.0 {
            row.scaled_add(weight * l, &right);
        }
    }
}

/// The inverse of a square matrix by elimination with partial pivoting; `None` where it has none, or is not finite.
pub fn inverse(matrix: &Array2<f64>) -> Option<Array2<f64>> {
    let n = matrix.nrows();
    if matrix.ncols() != n || matrix.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let scale = matrix.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
    let mut left = matrix.clone();
    let mut right = Array2::<f64>::eye(n);
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| left[(a, column)].abs().total_cmp(&left[(b, column)].abs()))?;
        if left[(pivot, column)].abs() <= 1e-13 * scale {
            return None;
        }
        if pivot != column {
            for j in 0..n {
                left.swap((pivot, j), (column, j));
                right.swap((pivot, j), (column, j));
            }
        }
        let by = 1.0 / left[(column, column)];
        left.row_mut(column).mapv_inplace(|x| x * by);
        right.row_mut(column).mapv_inplace(|x| x * by);
        let (left_row, right_row): (Array1<f64>, Array1<f64>) =
            (left.row(column).to_owned(), right.row(column).to_owned());
        for i in (0..n).filter(|&i| i != column) {
            let factor = left[(i, column)];
            if factor != 0.0 {
                left.row_mut(i).scaled_add(-factor, &left_row);
                right.row_mut(i).scaled_add(-factor, &right_row);
            }
        }
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_times_its_inverse_is_one_and_a_singular_one_has_none() {
        let matrix =
            Array2::from_shape_fn((5, 5), |(i, j)| ((3 * i + 7 * j) % 11) as f64 + if i == j { 2.0 } else { 0.0 });
        let product = matrix.dot(&inverse(&matrix).unwrap());
        assert!(product.indexed_iter().all(|((i, j), x)| (x - f64::from(u8::from(i == j))).abs() < 1e-9), "{product}");
        assert!(inverse(&Array2::zeros((3, 3))).is_none());
        assert!(inverse(&Array2::from_elem((2, 2), f64::NAN)).is_none());
        assert!(inverse(&Array2::zeros((2, 3))).is_none());
    }

    #[test]
    fn outer_products_add_up() {
        let mut sum = Array2::zeros((2, 3));
        let (left, right) = (Array1::from(vec![1.0, 2.0]), Array1::from(vec![1.0, 0.0, 3.0]));
        add_outer(&mut sum, left.view(), right.view(), 0.5);
        assert_eq!(sum, Array2::from_shape_vec((2, 3), vec![0.5, 0.0, 1.5, 1.0, 0.0, 3.0]).unwrap());
    }
}
