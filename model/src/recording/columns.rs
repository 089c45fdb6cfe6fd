//! Rows of plain fields as Arrow columns: what each field type looks like, and the macro that makes a row type from one
//! list.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, ListArray, ListBuilder, RecordBatch,
    StringArray, StringBuilder, UInt32Array, UInt64Array, new_null_array,
};
use arrow::datatypes::{DataType, Field};

use super::RecordingError;

/// A row type; made by the macro `rows!`.
pub trait Row: Sized {
    /// Kind of rows, e.g. `ticks`.
    const KIND: &'static str;
    /// Its columns.
    fn fields() -> Vec<Field>;
    /// Rows to columns, in the order of `fields`.
    fn encode(rows: &[Self]) -> Vec<ArrayRef>;
    /// Columns to rows.
    ///
    /// # Errors
    /// The column that does not fit.
    fn decode(batch: &RecordBatch) -> Result<Vec<Self>, RecordingError>;
}

/// A type that a field may have.
pub trait Column: Sized {
    /// Arrow's name for it.
    fn data_type() -> DataType;
    /// Whether it may be null.
    const NULLABLE: bool;
    /// Values to a column.
    fn encode<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;
    /// A column to values, `None` for a null where there must not be one; `None` altogether for another type.
    fn decode(array: &dyn Array) -> Option<Vec<Option<Self>>>;
}

/// Reads one column by its name. One that is not there is null in every row where it may be.
pub(super) fn decode<T: Column>(
    batch: &RecordBatch,
    kind: &'static str,
    column: &'static str,
) -> Result<std::vec::IntoIter<T>, RecordingError> {
    let expected = || {
        let null = if T::NULLABLE { " or null" } else { "" };
        format!("{}{null}", T::data_type())
    };
    let array = match batch.column_by_name(column) {
        Some(array) => array.clone(),
        // A column that was added since the file was written, and that may say nothing.
        None if T::NULLABLE => new_null_array(&T::data_type(), batch.num_rows()),
        None => return Err(RecordingError::MissingColumn { kind, column, expected: expected() }),
    };
    let values = T::decode(array.as_ref()).ok_or_else(|| RecordingError::ColumnType {
        kind,
        column,
        found: array.data_type().to_string(),
        expected: expected(),
    })?;
    let rows = values.into_iter().enumerate().map(|(row, value)| {
        value.ok_or_else(|| RecordingError::Value { kind, column, row, found: "null", expected: expected() })
    });
    Ok(rows.collect::<Result<Vec<T>, _>>()?.into_iter())
}

macro_rules! plain_column {
    ($type:ty, $array:ty, $data_type:expr) => {
        impl Column for $type {
            const NULLABLE: bool = false;
            fn data_type() -> DataType {
                $data_type
            }
            fn encode<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(<$array>::from(values.copied().collect::<Vec<$type>>()))
            }
            fn decode(array: &dyn Array) -> Option<Vec<Option<Self>>> {
                Some(array.as_any().downcast_ref::<$array>()?.iter().collect())
            }
        }

        impl Column for Option<$type> {
            const NULLABLE: bool = true;
            fn data_type() -> DataType {
                $data_type
            }
            fn encode<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(<$array>::from(values.copied().collect::<Vec<Option<$type>>>()))
            }
            fn decode(array: &dyn Array) -> Option<Vec<Option<Self>>> {
                Some(array.as_any().downcast_ref::<$array>()?.iter().map(Some).collect())
            }
        }
    };
}

plain_column!(f64, Float64Array, DataType::Float64);
plain_column!(f32, Float32Array, DataType::Float32);
plain_column!(u64, UInt64Array, DataType::UInt64);
plain_column!(u32, UInt32Array, DataType::UInt32);
plain_column!(i64, Int64Array, DataType::Int64);
plain_column!(bool, BooleanArray, DataType::Boolean);

impl Column for String {
    const NULLABLE: bool = false;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn encode<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }
    fn decode(array: &dyn Array) -> Option<Vec<Option<Self>>> {
        let strings = array.as_any().downcast_ref::<StringArray>()?;
        Some(strings.iter().map(|value| value.map(str::to_owned)).collect())
    }
}

impl Column for Option<String> {
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn encode<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(values.map(Option::as_deref).collect::<StringArray>())
    }
    fn decode(array: &dyn Array) -> Option<Vec<Option<Self>>> {
        let strings = array.as_any().downcast_ref::<StringArray>()?;
        Some(strings.iter().map(|value| Some(value.map(str::to_owned))).collect())
    }
}

impl Column for Vec<String> {
    const NULLABLE: bool = false;
    fn data_type() -> DataType {
        DataType::new_list(DataType::Utf8, true)
    }
    fn encode<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for list in values {
            list.iter().for_each(|item| builder.values().append_value(item));
            builder.append(true);
        }
        Arc::new(builder.finish())
    }
    fn decode(array: &dyn Array) -> Option<Vec<Option<Self>>> {
        let lists = array.as_any().downcast_ref::<ListArray>()?;
        lists.values().as_any().downcast_ref::<StringArray>()?;
        let strings = |list: ArrayRef| {
            let strings = list.as_any().downcast_ref::<StringArray>()?;
            strings.iter().map(|item| item.map(str::to_owned)).collect()
        };
        Some(lists.iter().map(|list| list.and_then(strings)).collect())
    }
}

/// Declares a row type and its columns in one list.
macro_rules! rows {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $kind:literal {
            $( $(#[$field_meta:meta])* pub $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl $crate::recording::Row for $name {
            const KIND: &'static str = $kind;

            fn fields() -> Vec<arrow::datatypes::Field> {
                use $crate::recording::Column;
                vec![$( arrow::datatypes::Field::new(
                    stringify!($field),
                    <$type as Column>::data_type(),
                    <$type as Column>::NULLABLE,
                ), )*]
            }

            fn encode(rows: &[Self]) -> Vec<arrow::array::ArrayRef> {
                use $crate::recording::Column;
                vec![$( <$type as Column>::encode(rows.iter().map(|row| &row.$field)), )*]
            }

            fn decode(batch: &arrow::array::RecordBatch) -> Result<Vec<Self>, $crate::recording::RecordingError> {
                $( let mut $field = $crate::recording::columns::decode::<$type>(batch, $kind, stringify!($field))?; )*
                let mut rows = Vec::with_capacity(batch.num_rows());
                // All columns of a batch are of one length, so they end together.
                while let ($( Some($field), )*) = ($( $field.next(), )*) {
                    rows.push(Self { $( $field, )* });
                }
                Ok(rows)
            }
        }
    };
}
pub(super) use rows;
