//! `#[derive(Message)]`: the trait `Message` for a type, with the reply that its attribute says.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::ParseStream;
use syn::{Data, DeriveInput, Fields, GenericParam, Type};

use crate::errors::Errors;
use crate::keys;

#[derive(Default)]
struct Keys {
    reply: Option<Type>,
    local: Option<()>,
}

pub(crate) fn expand(item: TokenStream) -> syn::Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    let keys = Keys::read(&item)?;
    Ok(write(&item, &keys))
}

impl Keys {
    fn read(item: &DeriveInput) -> syn::Result<Self> {
        let mut this = Self::default();
        let mut errors = Errors::default();
        for attribute in item.attrs.iter().filter(|attribute| attribute.path().is_ident("message")) {
            errors.take(attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("reply") {
                    keys::once(&mut this.reply, &meta, reply(meta.value()?)?)
                } else if meta.path.is_ident("local") {
                    keys::once(&mut this.local, &meta, ())
                } else {
                    Err(keys::unknown(&meta, &["reply", "local"]))
                }
            }));
        }
        for parameter in &item.generics.params {
            if let GenericParam::Lifetime(lifetime) = parameter {
                errors.at(lifetime, "a message outlives its sender: own what it says instead of borrowing it");
            }
        }
        if let Data::Union(union) = &item.data {
            errors.at(union.union_token, "a union does not say what it holds: make the message an `enum`");
        }
        errors.finish(Some(this))
    }
}

fn reply(value: ParseStream<'_>) -> syn::Result<Type> {
    value.parse().map_err(|error| syn::Error::new(error.span(), "expected a type, such as `reply = usize`"))
}

fn write(item: &DeriveInput, keys: &Keys) -> TokenStream {
    let DeriveInput { ident, generics, .. } = item;
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let reply = keys.reply.as_ref().map_or_else(|| quote!(()), |reply| quote!(#reply));
    let heap_bytes = heap_bytes(item);
    let local = keys.local.map(|()| {
        quote!(
            const LOCAL: bool = true;
        )
    });
    quote_spanned! {ident.span()=>
        impl #impl_generics ::mobula::__private::Message for #ident #type_generics #where_clause {
            type Reply = #reply;
            #local
            #heap_bytes
        }
    }
}

/// What a struct's fields own. Of an enum only the size is known cheaply.
fn heap_bytes(item: &DeriveInput) -> Option<TokenStream> {
    let Data::Struct(data) = &item.data else { return None };
    if matches!(data.fields, Fields::Unit) {
        return None;
    }
    let fields = data.fields.members();
    Some(quote! {
        fn heap_bytes(&self) -> usize {
            use ::mobula::__private::Light as _;
            0 #(+ ::mobula::__private::Weighed(&self.#fields).heap_bytes())*
        }
    })
}
