//! Options that grow: structures which only this crate makes whole, and others by changing a field at a time.

/// For each field named a method of its name that returns the structure with another value there.
macro_rules! setters {
    ($type:ty { $($field:ident: $value:ty),+ $(,)? }) => {
        impl $type {
            $(
                #[doc = concat!("The same with another `", stringify!($field), "`.")]
                #[must_use]
                pub fn $field(self, $field: $value) -> Self {
                    Self { $field, ..self }
                }
            )+
        }
    };
}
